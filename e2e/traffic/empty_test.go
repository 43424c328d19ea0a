package traffic

var (
	scenarioTests, loadTests []test
)
